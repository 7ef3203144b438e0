//! The way of one message: decoded, handed to the distributor, and again as long as it says "later".

use std::{panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use distributor::{Distributor, MemoryFull, PushError, PushOutcome};
use futures::FutureExt;
use model::{ErrorKind, TenantId};

use crate::{
    encoding::{DecodeError, Encoding},
    ledger::Again,
    shared::{Discarded, Flight},
};

/// Messages up to this size are decoded at once; more goes to a thread that may block.
const INLINE_BYTES_MAX: usize = 16 << 10;
/// Before a message that was refused twice is tried again; each time twice as long ...
const WAIT_MIN: Duration = Duration::from_millis(100);
/// ... up to this.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A message over which we break down this often is not tried again.
const PANICS_MAX: u32 = 3;

/// Ends when the message is durable or given up, or its partition is no longer ours.
pub(crate) async fn store(
    flight: Flight,
    distributor: Distributor,
    tenant: TenantId,
    encoding: Encoding,
    payload: Bytes,
) {
    let request = match decode(encoding, payload).await {
        Ok(request) => request,
        Err((reason, why)) => return flight.give_up(reason, &why),
    };
    let mut panics = 0;
    let Some(refusal) = attempt(&flight, &distributor, &tenant, &request, &mut panics).await else { return };
    let Some(Again { turn, ended }) = flight.refused(&refusal) else { return };
    let mut wait = tokio::select! {
        () = ended.cancelled() => return,
        wait = turn.lock() => wait,
    };
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(*wait) => {}
        }
        if attempt(&flight, &distributor, &tenant, &request, &mut panics).await.is_none() {
            *wait = Duration::ZERO;
            return flight.decided();
        }
        *wait = (*wait * 2).clamp(WAIT_MIN, WAIT_MAX);
    }
}

/// `None` when the message is decided; else why it has to come again.
async fn attempt(
    flight: &Flight,
    distributor: &Distributor,
    tenant: &TenantId,
    request: &Bytes,
    panics: &mut u32,
) -> Option<String> {
    // While it waits, the bound on what is under way holds; now it is a request like others.
    let lease = distributor.memory().lease().and_then(|mut lease| lease.grow(request.len()).map(|()| lease));
    let _lease = match lease {
        Ok(lease) => lease,
        Err(full @ MemoryFull::Now(_)) => return Some(full.to_string()),
        Err(never) => {
            flight.give_up(Discarded::TooLarge, &never);
            return None;
        }
    };
    let pushed = AssertUnwindSafe(distributor.push(tenant, request.clone())).catch_unwind().await;
    match pushed {
        Ok(Ok(PushOutcome { accepted, .. })) => flight.stored(accepted),
        Ok(Err(PushError { retry_after: Some(_), message, .. })) => return Some(message),
        Ok(Err(PushError { kind: ErrorKind::TooLarge, message, .. })) => flight.give_up(Discarded::TooLarge, &message),
        Ok(Err(PushError { message, .. })) => flight.give_up(Discarded::Rejected, &message),
        Err(_) => {
            *panics += 1;
            if *panics < PANICS_MAX {
                return Some("an internal error".to_owned());
            }
            flight.give_up(Discarded::Internal, &"an internal error");
        }
    }
    None
}

async fn decode(encoding: Encoding, payload: Bytes) -> Result<Bytes, (Discarded, String)> {
    let decoded = match encoding != Encoding::OtlpProto && payload.len() > INLINE_BYTES_MAX {
        true => tokio::task::spawn_blocking(move || encoding.decode(payload)).await.map_err(|error| error.to_string()),
        false => std::panic::catch_unwind(AssertUnwindSafe(|| encoding.decode(payload)))
            .map_err(|_| "an internal error".to_owned()),
    };
    let decoded = decoded.map_err(|panic| (Discarded::Internal, panic))?;
    decoded.map_err(|error: DecodeError| {
        let reason = if error.is_size() { Discarded::TooLarge } else { Discarded::Malformed };
        (reason, error.to_string())
    })
}
