//! Formats of specifications: OCI documents and references, dpkg's database, Dockerfiles, ignore files, requirements and locks.

pub mod debian;
pub mod dockerfile;
pub mod ignore;
pub mod lock;
pub mod oci;
pub mod project;
pub mod reference;
pub mod requirements;
pub mod sdist;
pub mod versions;
pub mod wheel;
