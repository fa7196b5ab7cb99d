"""Following a database: publication and slot, the replication connection, what it says, and changes made of that."""
