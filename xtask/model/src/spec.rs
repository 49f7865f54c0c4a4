//! Formats of specifications: OCI documents and references, Dockerfiles, ignore files, requirements and locks.

pub mod dockerfile;
pub mod ignore;
pub mod lock;
pub mod oci;
pub mod project;
pub mod reference;
pub mod requirements;
pub mod sdist;
pub mod wheel;
