-- Row security in force: a reader who is subject to it sees fewer rows than there are.
ALTER TABLE shop.notes ENABLE ROW LEVEL SECURITY;
