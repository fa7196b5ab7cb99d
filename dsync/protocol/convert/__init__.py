"""Our value types as protobuf messages and back, one pair of functions a type.

`x_to_pb` and `x_from_pb` are inverse to each other. What a peer may send and we do not know (a newer enum value, a
field of another version) never fails: enums become their UNKNOWN member, in lists they are left out.
"""
