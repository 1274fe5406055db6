//! R2: whoever may answer a read on a lease has every committed entry in its log (only then can it know that a key is
//! clean). A read lease that outlives its holder's part in the ISR breaks this at the first commit it is not asked for.

use common::{Seq, Slot, Time};
use kvserver::replica::Replica;

pub(super) fn check(server: usize, slot: Slot, replica: &Replica, now: Time, committed: Seq) -> Result<(), String> {
    let end = replica.end();
    if end >= committed || !replica.may_read(now) {
        return Ok(());
    }
    let epoch = replica.view().map(|view| view.epoch).unwrap_or_default();
    let what = format!("its log ends at {end} and {committed} is committed");
    Err(format!("R2: slot {slot}: s{server} may read on a lease of epoch {epoch}, but {what}"))
}
