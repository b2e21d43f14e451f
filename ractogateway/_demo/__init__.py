"""What `python -m ractogateway demo` is made of. Not part of the library: nothing else imports it."""
