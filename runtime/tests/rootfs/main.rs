//! Roots built for real, as root, in mount namespaces of their own. Nothing is left on the host.

mod attacks;
mod bed;
mod old_kernel;
mod options;
mod special;
mod user_namespace;
mod whole;
