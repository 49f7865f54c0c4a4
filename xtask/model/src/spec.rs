//! Formats of specifications: OCI documents and references, Dockerfiles, ignore files, requirements and locks.

pub mod dockerfile;
pub mod ignore;
pub mod lock;
pub mod oci;
pub mod reference;
pub mod requirements;
pub mod wheel;
