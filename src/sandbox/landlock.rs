//! Landlock: no file to be opened, listed or made anywhere, no signal and no abstract socket outside.
//!
//! It says once more what the empty root and the filter say. Network rules are not used: a plane connects wherever its
//! guest wants to.

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};

/// True where the kernel has it.
pub(super) fn restrict() -> bool {
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self());
    restricted.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}
