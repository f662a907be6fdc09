// Threads that sleep between calls: a pool whose caller waits for all of it, and helpers whose caller waits for none.
//
// OpenMP is not used: its threads spin, and beside a busy event loop on the same cores each parallel region then waits
// for a scheduler slice (a 0.7 ms product took 16 ms).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace sorl {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#endif
}

// Looks for `done()` for some tens of microseconds, which is longer than the threads of an undisturbed team differ.
// Whoever waits longer than that waits for a thread that lost its core, and must give up its own.
template <class Done>
bool soon(const Done& done) {
    for (int spins = 0; spins < 2000; ++spins) {
        if (done()) return true;
        pause();
    }
    return false;
}

// Threads that sleep until they are woken; the last member of who has them, since they work with the others.
class Sleepers {
   public:
    // `serve(rank)`, for rank 1 .. count, on a thread of its own: it must return when `sleep` says so.
    template <class Serve>
    Sleepers(int count, const Serve& serve) {
        for (int rank = 1; rank <= count; ++rank) threads_.emplace_back([serve, rank] { serve(rank); });
    }

    ~Sleepers() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            closing_ = true;
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    Sleepers(const Sleepers&) = delete;
    Sleepers& operator=(const Sleepers&) = delete;

    std::vector<std::thread>& threads() { return threads_; }

    // Wakes all of them; `publish()` says what for.
    template <class Publish>
    void wake(const Publish& publish) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            publish();
            times_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
    }

    // Until woken after time `seen`; then `read()` sees what for. False: they are to end.
    template <class Read>
    bool sleep(uint32_t& seen, const Read& read) {
        // A batch often follows within microseconds of the last: waking a sleeper costs more than this look.
        soon([&] { return times_.load(std::memory_order_acquire) != seen; });
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return closing_ || times_.load(std::memory_order_relaxed) != seen; });
        if (closing_) return false;
        seen = times_.load(std::memory_order_relaxed);
        read();
        return true;
    }

   private:
    std::mutex mutex_;
    std::condition_variable wake_;
    bool closing_ = false;
    std::atomic<uint32_t> times_{0};
    std::vector<std::thread> threads_;  // the last member: they use the others
};

// Runs a function once on each of `size` threads; the caller is thread 0.
class Pool {
   public:
    using Function = void (*)(void* context, int rank);

    explicit Pool(int size) : size_(size), sleepers_(size - 1, [this](int rank) { serve(rank); }) {}

    int size() const { return size_; }

    // `function(context, rank)` for rank 0 .. team - 1, team <= size.
    void run(int team, Function function, void* context) {
        if (team > 1) {
            sleepers_.wake([&] {
                job_ = {function, context, team};
                unfinished_.store(team - 1, std::memory_order_relaxed);
            });
        }
        function(context, 0);
        const auto finished = [&] { return unfinished_.load(std::memory_order_acquire) == 0; };
        if (team > 1 && !soon(finished)) {
            std::unique_lock<std::mutex> lock(mutex_);
            finished_.wait(lock, finished);
        }
    }

   private:
    struct Job {
        Function function;
        void* context;
        int team;
    };

    void serve(int rank) {
        uint32_t seen = 0;
        Job job;
        while (sleepers_.sleep(seen, [&] { job = job_; })) {
            if (rank >= job.team) continue;
            job.function(job.context, rank);
            if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                { const std::lock_guard<std::mutex> lock(mutex_); }  // not between the caller's look and its sleep
                finished_.notify_one();
            }
        }
    }

    const int size_;
    Job job_{};
    std::mutex mutex_;
    std::condition_variable finished_;
    std::atomic<int> unfinished_{0};
    Sleepers sleepers_;
};

// Threads that lend idle cores to a job. Whoever invites them computes the job himself and waits for nobody: what they
// have not begun or not finished he does too. The job, which they share, outlives his interest in it.
//
// On Linux their policy is SCHED_IDLE: an event loop that wakes takes a helper's core at once, where it would have to wait
// up to 3 ms for that of an ordinary thread.
class Helpers {
   public:
    class Job {
       public:
        virtual ~Job() = default;
        virtual void help(int rank) = 0;  // on a helper's thread, 1 <= rank <= count
    };

    explicit Helpers(int count) : count_(count), sleepers_(count, [this](int rank) { serve(rank); }) {}

    int count() const { return count_; }

    // Until the next invitation; returns at once.
    void invite(std::shared_ptr<Job> job) {
        keep_apart();
        sleepers_.wake([&] { job_.swap(job); });
    }

   private:
#if defined(__linux__)
    static cpu_set_t affinity() {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        sched_getaffinity(0, sizeof cores, &cores);
        return cores;
    }

    // Not on the caller's core: virtual machines have been seen to wake a sleeper there, beside idle cores, until the
    // balancer comes by milliseconds later. After 10 ms of rest (8, 8) of 4 x 512 took 3.2 ms with two threads, 0.6 with one.
    void keep_apart() {
        const int here = sched_getcpu();
        if (here < 0 || here == avoided_) return;
        cpu_set_t others = allowed_;
        CPU_CLR(here, &others);
        if (CPU_COUNT(&others) == 0) return;
        for (std::thread& thread : sleepers_.threads())
            pthread_setaffinity_np(thread.native_handle(), sizeof others, &others);
        avoided_ = here;
    }

    static void yield_to_others() {
        const sched_param none{};
        sched_setscheduler(0, SCHED_IDLE, &none);
    }

    const cpu_set_t allowed_ = affinity();
    int avoided_ = -1;
#else
    void keep_apart() {}
    static void yield_to_others() {}
#endif

    void serve(int rank) {
        yield_to_others();
        uint32_t seen = 0;
        for (std::shared_ptr<Job> job; sleepers_.sleep(seen, [&] { job = job_; }); job.reset()) job->help(rank);
    }

    const int count_;
    std::shared_ptr<Job> job_;
    Sleepers sleepers_;
};

}  // namespace sorl
