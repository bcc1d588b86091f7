"""The commands, a module a topic; ``cli`` puts them together. Heavy imports wait inside them."""
