"""The inside of the chat memory: one room a subject, none of them public."""
