"""The tests: unit, contract, integration and crash, and what they share."""
