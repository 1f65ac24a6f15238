//! The library seen from outside; one program, so that it is linked once.

mod cert;
mod credentials;
mod handshakes;
mod pem;
mod properties;
mod reload;
mod support;
mod trust;
mod verify_peer;
