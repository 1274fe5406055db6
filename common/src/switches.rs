//! Switches that turn single rules of the protocol off, in simulation builds only (feature `switches`).
//!
//! A rule that can be removed without any simulated history going wrong is either superfluous or untested. In a product
//! build [`Switches::off`] is a constant `false` and costs nothing.

/// The rules that can be turned off; each is described in `docs/replication.md`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)] // the names are the documentation's
pub enum Rule {
    NoFsync,
    NoFence,
    NoEpochMatch,
    ReplayAll,
    ShrinkEarly,
    DropPending,
    ExpandEarly,
    NarrowLease,
    Unclean,
    ResumeEpoch,
    GrantUnbounded,
    NoPromiseWait,
    NoReaderWait,
    NoBootWait,
    ContNoHold,
    NoPrimaryLease,
    NoReaderLease,
    DirtyRead,
    DirtyOld,
    ClaimKept,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 20] = [
        Rule::NoFsync,
        Rule::NoFence,
        Rule::NoEpochMatch,
        Rule::ReplayAll,
        Rule::ShrinkEarly,
        Rule::DropPending,
        Rule::ExpandEarly,
        Rule::NarrowLease,
        Rule::Unclean,
        Rule::ResumeEpoch,
        Rule::GrantUnbounded,
        Rule::NoPromiseWait,
        Rule::NoReaderWait,
        Rule::NoBootWait,
        Rule::ContNoHold,
        Rule::NoPrimaryLease,
        Rule::NoReaderLease,
        Rule::DirtyRead,
        Rule::DirtyOld,
        Rule::ClaimKept,
    ];
}

/// Which rules are off.
#[derive(Clone, Copy, Default, Debug)]
pub struct Switches {
    #[cfg(feature = "switches")]
    off: Option<Rule>,
}

impl Switches {
    /// All rules but one.
    #[cfg(feature = "switches")]
    #[must_use]
    pub fn without(rule: Rule) -> Switches {
        Switches { off: Some(rule) }
    }

    /// Whether `rule` is off.
    #[must_use]
    #[inline]
    pub fn off(&self, rule: Rule) -> bool {
        #[cfg(feature = "switches")]
        return self.off == Some(rule);
        #[cfg(not(feature = "switches"))]
        {
            let _ = rule;
            false
        }
    }
}
