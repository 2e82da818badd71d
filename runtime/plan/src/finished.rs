//! The guard of a finished plan.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A plan as the planner built it: readable, printable and comparable, and shared when it is cloned.
///
/// This crate alone can make one, and its fields cannot be changed afterwards, neither through the guard nor by moving
/// the plan out of it:
///
/// ```compile_fail,E0594
/// fn change(plan: &mut brig_plan::Finished<brig_plan::init::InitPlan>) {
///     plan.preserve_fds = 1;
/// }
/// ```
///
/// ```compile_fail,E0507
/// fn take(plan: brig_plan::Finished<brig_plan::init::InitPlan>) -> brig_plan::init::InitPlan {
///     *plan
/// }
/// ```
///
/// Plans are no values that others construct:
///
/// ```compile_fail,E0639
/// let limit = brig_plan::process::Rlimit { resource: 0, soft: 0, hard: 0 };
/// ```
///
/// The one way in from outside is deserialisation: init reads the plan that its parent has built and written.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished<T>(Arc<T>);

impl<T> Finished<T> {
    pub(crate) fn new(plan: T) -> Finished<T> {
        Finished(Arc::new(plan))
    }
}

impl<T> Clone for Finished<T> {
    fn clone(&self) -> Finished<T> {
        Finished(Arc::clone(&self.0))
    }
}

impl<T> Deref for Finished<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Serialize> Serialize for Finished<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Finished<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Finished<T>, D::Error> {
        T::deserialize(deserializer).map(Finished::new)
    }
}
