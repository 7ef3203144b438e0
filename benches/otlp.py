"""Where things stand in the bytes of an ExportTraceServiceRequest, without decoding it (opentelemetry/proto/trace/v1)."""


def varint(body, at):
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def fields(body, at, end):
    """(number, wire type, begin, end) of each field of a message."""
    while at < end:
        key, at = varint(body, at)
        wire = key & 7
        if wire == 2:
            length, at = varint(body, at)
        elif wire == 0:
            begin = at
            _, at = varint(body, at)
            yield key >> 3, wire, begin, at
            continue
        else:
            length = {1: 8, 5: 4}[wire]
        yield key >> 3, wire, at, at + length
        at += length


def spans(body):
    """Begin and end of each span."""
    for resource in fields(body, 0, len(body)):
        for scope in fields(body, *resource[2:]):
            if scope[:2] == (2, 2):
                yield from (span[2:] for span in fields(body, *scope[2:]) if span[:2] == (2, 2))
