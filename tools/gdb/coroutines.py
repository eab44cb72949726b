"""For gdb: the stacks of coroutines that are suspended, which `bt` does not know of. x86-64; the program must live (no core files).

(gdb) source tools/gdb/coroutines.py
(gdb) coroutines IO        IO: a struct io *, as node->io; in a simulator &world->sim->machines[2]->io

A line each: its name, and the functions with their lines, the innermost first."""
import gdb

FRAMES_MAX = 16
SAVED = ("r15", "r14", "r13", "r12", "rbx", "rbp")  # as co_switch.S pops them, above 8 bytes of control words


def word(address):
    return int(gdb.parse_and_eval(f"*(unsigned long *){address}"))


def registers(stack_pointer):
    """As they will be when the coroutine goes on."""
    values = {name: word(stack_pointer + 8 + 8 * i) for i, name in enumerate(SAVED)}
    values["rip"] = word(stack_pointer + 8 + 8 * len(SAVED))
    values["rsp"] = stack_pointer + 16 + 8 * len(SAVED)
    return values


def set_registers(values):
    for name, value in values.items():
        gdb.execute(f"set ${name} = {value}")


def frames():
    frame, names = gdb.newest_frame(), []
    while frame and len(names) < FRAMES_MAX:
        names.append(f"{frame.name()}:{frame.find_sal().line}")
        try:
            frame = frame.older()
        except gdb.error:  # the end of a stack of our own making
            break
    return names


def entries(head, kind, member):
    """The structs of a struct list."""
    offset = next(field.bitpos // 8 for field in kind.fields() if field.name == member)
    node = head["next"]
    while int(node) != int(head.address):
        yield gdb.Value(int(node) - offset).cast(kind.pointer())
        node = node["next"]


class Coroutines(gdb.Command):
    __doc__ = __doc__

    def __init__(self):
        super().__init__("coroutines", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        io = gdb.parse_and_eval(argument)
        found = list(entries(io["coroutines"], gdb.lookup_type("struct co"), "alive"))
        gdb.newest_frame().select()
        own = {name: int(gdb.parse_and_eval(f"(unsigned long)${name}")) for name in (*SAVED, "rip", "rsp")}
        try:
            for coroutine in found:
                set_registers(registers(int(coroutine["stack_pointer"])))
                print(f"{coroutine['name'].string():18} {' < '.join(frames())}")
        finally:
            set_registers(own)


Coroutines()
