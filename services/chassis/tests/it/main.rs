//! The library seen from outside; one program, so that it is linked once.

mod leaf;
mod pem;
mod roots;
mod support;
