"""The parts that benches are made of: build what is measured, start it, load it, read what it cost, report it."""
