//! The one provider of TLS in this process: ring, for the API server's client and for Prometheus's alike.

/// Names the provider; asked twice, it is the same one. A client made before this would panic.
pub fn provide() {
    // An error says that there is one already, and there is no other that could be.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
