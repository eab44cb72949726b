/* message_types: a range of message numbers to each module, so that no two mean the same. The
 * module that handles a message names it, in a header of its own, counted from its range. Numbers
 * are part of the wire format: a retired one is not used again. */
#ifndef S2D_BUS_MESSAGE_TYPES_H
#define S2D_BUS_MESSAGE_TYPES_H

enum bus_message_range {
    BUS_TYPE_BUS = 1,     /* 1-99: the bus itself, tests and benches */
    BUS_TYPE_RAFT = 100,  /* 100-199: Raft, the cluster database */
    BUS_TYPE_LEASE = 200, /* 200-299: heartbeats, leases, detection, sessions */
    BUS_TYPE_STORE = 300, /* 300-399: records, seals, copies, reads of a store */
    BUS_TYPE_FILES = 400, /* 400-499: requests redirected to the owner */
    BUS_TYPE_NODE = 500,  /* 500-599: joining, administration */
    BUS_TYPE_RANGE = 100, /* numbers in a range */
};

#endif
