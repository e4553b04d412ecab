"""The files of deploy/, tried with what can be tried without a container engine: real servers read them. A program that is missing is a
failure, because a file that nothing has read is not known to be right."""
