"""What several tests share: servers, databases, roles, waiting and a faulty proxy."""
