"""keepsight inside other people's toolkits; each module needs its toolkit only when it is used. See docs/integrations.md."""
