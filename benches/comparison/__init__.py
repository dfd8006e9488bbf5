"""What `benches/compare` is made of.

machine    cores, CPU clocks, what else ran, packages: everything that is read from Linux
servers    the peers, their configurations and processes, and the origin
workloads  the table of workloads with the targets of each
loads      the load generators: wrk and ringfence-load
measure    one workload: rounds, windows, what is disturbed and repeated
results    medians, ratios, targets: what follows from the samples, pure
text       the table of the terminal
page       the HTML report
"""
