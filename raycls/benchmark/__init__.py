"""Load tests of a served model, for `raycls bench`, `raycls demo` and the programs in benchmarks/.

load, sender    the load generator and its child process     images, request_forms, connection   what it sends
one_server      one server under every load of a plan        usage, batch_counts                 what the server does
replicas        one model with several replica counts        bound                               the machine's limit
results         measurements and conclusions                 report, plot                        the table and the page
"""
