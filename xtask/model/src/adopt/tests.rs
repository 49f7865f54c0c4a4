//! Dockerfiles of many styles.
