"""The cloud: gateway, bus, analysis, store, registry, fleet and rollout."""
