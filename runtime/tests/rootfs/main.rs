//! Tests that build roots, as root, in mount namespaces of their own. They leave nothing on the host.

mod attacks;
mod bed;
mod old_kernel;
mod options;
mod special;
mod user_namespace;
mod whole;
