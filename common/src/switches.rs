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
    NoCas,
    TellFirst,
    ForgetView,
    CommitBlind,
    LateCount,
    LateHold,
    NoDrift,
    OldGrant,
    LazyConfirm,
    StaleRound,
    RetryInFlight,
    RetryForgotten,
    RetryStranger,
    WalkBlind,
    NoRecoverySync,
    KeepStore,
    KeepCondemned,
    TrustCopy,
    OldState,
    CutFurther,
    ReadLacking,
    ForgetLeft,
    LateWalk,
    RetryEvaluated,
    ExpireUnlogged,
    RelayNoId,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 46] = [
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
        Rule::NoCas,
        Rule::TellFirst,
        Rule::ForgetView,
        Rule::CommitBlind,
        Rule::LateCount,
        Rule::LateHold,
        Rule::NoDrift,
        Rule::OldGrant,
        Rule::LazyConfirm,
        Rule::StaleRound,
        Rule::RetryInFlight,
        Rule::RetryForgotten,
        Rule::RetryStranger,
        Rule::WalkBlind,
        Rule::NoRecoverySync,
        Rule::KeepStore,
        Rule::KeepCondemned,
        Rule::TrustCopy,
        Rule::OldState,
        Rule::CutFurther,
        Rule::ReadLacking,
        Rule::ForgetLeft,
        Rule::LateWalk,
        Rule::RetryEvaluated,
        Rule::ExpireUnlogged,
        Rule::RelayNoId,
    ];

    /// Its name in the documentation: `no_fsync` for [`Rule::NoFsync`].
    #[must_use]
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// The rule of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Rule> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

/// Which rules are off.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_documentations() {
        assert_eq!(Rule::NoFsync.name(), "no_fsync");
        assert_eq!(Rule::ContNoHold.name(), "cont_no_hold");
        assert!(Rule::ALL.into_iter().all(|rule| Rule::named(&rule.name()) == Some(rule)));
    }
}
