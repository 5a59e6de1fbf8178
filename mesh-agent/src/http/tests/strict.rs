//! What could be read in two ways is not passed on.
