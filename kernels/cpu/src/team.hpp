// Threads that sleep between calls: `Pool`, whose caller waits for all threads, and `Helpers`, whose caller waits for
// none.
//
// OpenMP is not used because its threads spin. Beside a busy event loop on the same cores, each parallel region then
// waited for a scheduler slice (a 0.7 ms product took 16 ms).
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

// Polls `done()` for some tens of microseconds. Returns whether it became true. Threads that keep their cores finish
// within that time of each other; a longer wait is for a thread that lost its core, so the caller must sleep.
template <class Done>
bool soon(const Done& done) {
    for (int spins = 0; spins < 2000; ++spins) {
        if (done()) return true;
        pause();
    }
    return false;
}

// Threads that sleep until they are woken. Declare it as a class's last member, because its threads use the others.
class Sleepers {
   public:
    // Starts a thread for each rank 1 .. count, which calls `serve(rank)`. `serve` must return once `sleep` is false.
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

    // Calls `publish()`, which sets the threads' work, under the lock, then wakes all threads.
    template <class Publish>
    void wake(const Publish& publish) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            publish();
            times_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
    }

    // Sleeps until a wake-up later than number `seen`, then updates `seen` and calls `read()`, which copies the work,
    // under the lock. Returns false if the thread must end.
    template <class Read>
    bool sleep(uint32_t& seen, const Read& read) {
        // The next batch often follows within microseconds, and waking a sleeping thread costs more than this poll.
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
    std::vector<std::thread> threads_;  // the last member: the threads use the others
};

// Runs a function once on each of `size` threads; the caller is thread 0.
class Pool {
   public:
    using Function = void (*)(void* context, int rank);

    explicit Pool(int size) : size_(size), sleepers_(size - 1, [this](int rank) { serve(rank); }) {}

    int size() const { return size_; }

    // Calls `function(context, rank)` for rank 0 .. team - 1, team <= size, and waits for all.
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
                { const std::lock_guard<std::mutex> lock(mutex_); }  // not between the caller's check and its wait
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

// Threads that work on a job while cores are idle. The caller of `invite` computes the job too and waits for no helper:
// it also computes the parts that helpers have not finished. Caller and helpers share ownership of the job, which may
// outlive the call.
//
// On Linux helpers have the policy SCHED_IDLE: an event loop that wakes gets a helper's core at once. For an ordinary
// thread's core it would wait up to 3 ms.
class Helpers {
   public:
    class Job {
       public:
        virtual ~Job() = default;
        virtual void help(int rank) = 0;  // called on each helper thread, 1 <= rank <= count
    };

    explicit Helpers(int count) : count_(count), sleepers_(count, [this](int rank) { serve(rank); }) {}

    int count() const { return count_; }

    // Gives the helpers `job`, in place of the one before. Returns at once.
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

    // Keeps helpers off the caller's core. Virtual machines woke a helper there although other cores were idle, until
    // the load balancer ran milliseconds later: after 10 ms of rest, (8, 8) of 4 x 512 took 3.2 ms with two threads and
    // 0.6 ms with one.
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
