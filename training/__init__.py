"""Training: offline data to a policy file, and the evidence for it.

config, files, signals, logs          settings; atomic files; SIGINT and SIGTERM; metrics.csv and TensorBoard
batch, losses, learner/, train        one update, and `sorl-train`'s loop around it
data/                                 datasets: generated (`sorl-generate`), read, validated
episodes, episode_table, evaluation/  success in simulation (`sorl-evaluate`)
reporting/, plotting                  intervals and tests, numbers in words, Markdown tables, plots
results/                              the paper's claims, tested (`sorl-results`)
release/                              files from and for others (`sorl-export`, `sorl-import`, `sorl-parity`)
sweep/                                many runs on Ray (`sorl-sweep`)
"""
