"""Test tools shared by the suites: fakes, simulators, servers."""
