//! Black-box tests: the real program, its ports, its folder, and nothing else of it.

// The modules beside this file are to be named here again once each has passed on a calm machine.
