//! Somebody who dials the agents themselves, with certificates that prove nothing.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{ExtendedKeyUsagePurpose, SanType};

use super::Cause;
use crate::rogue::Stage;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn certificates_and_tunnels_that_are_wrong() -> Result<()> {
    let stage = Stage::new("explain certificates")?;
    let own = stage.cast.client.identity();
    let stranger = SanType::URI("spiffe://evil.local/ns/shop/sa/client".try_into()?);
    let (over, tomorrow) = (SystemTime::now() - HOUR, SystemTime::now() + HOUR);
    let of_other_root = stage.forge.impostor()?.leaf(&own, |_| {})?;
    let mut nobody = stage.attempt(&stage.stolen(&stage.cast.client)?);
    nobody.chain.clear();
    let mut elsewhere = stage.attempt(&stage.stolen(&stage.cast.client)?);
    elsewhere.authority = stage.cast.near.at(7000).to_string();
    let leaf = |bend: &dyn Fn(&mut rcgen::CertificateParams)| -> Result<_> {
        Ok(stage.attempt(&stage.forge.leaf(&own, bend)?))
    };
    let faults = [
        (leaf(&|p| p.subject_alt_names = vec![stranger.clone()])?, "CERT_TRUST_DOMAIN", "evil.local"),
        (leaf(&|p| p.not_after = over.into())?, "CERT_EXPIRED", ""),
        (leaf(&|p| p.not_before = tomorrow.into())?, "CERT_NOT_YET_VALID", ""),
        (leaf(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])?, "CERT_PURPOSE", ""),
        (stage.attempt(&of_other_root), "CERT_UNKNOWN_ISSUER", ""),
        (nobody, "NO_CLIENT_CERTIFICATE", ""),
        (elsewhere, "HBONE_ADDRESS_MISMATCH", ""),
    ];
    for (attempt, code, said) in faults {
        let outcome = stage.outcomes(&[attempt])?.remove(0);
        assert_ne!(outcome.status, 200, "{code}: {outcome:?}");
        let told = Cause { between: ("", "shop/far"), code, said, path: "" }.is_named(&stage.cast.world)?;
        assert_eq!(told["node"], "b", "{told}");
    }
    Ok(())
}
