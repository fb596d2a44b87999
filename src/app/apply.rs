//! Puts a new configuration in place of the one that is in force.
//!
//! Everything that can fail is made first. Then each part is swapped and noted as in force; whatever differs from the
//! configuration after that waits for the next start, and is said to.

use super::asking::{Around, Asking};
use super::{
    AppError, Faults, Running, bind_admin, desk, hops, ids, intake_rules, meter, note_reload, pushers,
    rules_of, tell_configured,
};
use crate::admin::Admin;
use crate::admin::control::{Access, BindError, Control, Requests};
use crate::admin::incidents::Desk;
use crate::config::{self, Config};
use crate::evidence::Scrubber;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// The admin port of a sidecar that runs.
pub(super) struct Port {
    requests: Option<Requests>,
    /// Absent as long as it may not open.
    open: Option<Open>,
}

struct Open {
    address: SocketAddr,
    access: Access,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Connections that are open end by themselves.
        self.task.abort();
    }
}

impl From<Control> for Open {
    fn from(control: Control) -> Self {
        Self { address: control.address, access: control.access(), task: tokio::spawn(control.serve()) }
    }
}

/// True if the second address can be listened on while the first one is.
fn beside(live: SocketAddr, wanted: SocketAddr) -> bool {
    live != wanted && (live.port() != wanted.port() || wanted.port() == 0)
}

/// A desk, with the task that reads a status page for it.
type NewDesk = (Desk, Option<JoinHandle<()>>);

/// Ports that are listening, for a configuration to come.
struct Ports {
    metrics: Option<Admin>,
    control: Option<Control>,
}

impl Running {
    /// Begins to ask. A configuration that is in force whole is kept, and any other is told of.
    pub(super) async fn begin(&mut self, mut faults: Faults) -> Result<(), AppError> {
        self.ask(&mut faults).await?;
        for problem in &faults.all {
            tracing::error!(problem, "left out, because it cannot be used as configured");
        }
        if faults.all.is_empty() && self.live.unread.is_empty() {
            note_reload(&self.stats, &self.clock);
            self.keeper.keep(&self.live);
        } else {
            self.refuse_reload();
        }
        Ok(())
    }

    /// Opens the admin port, unless what guards it could not be read: then a reload opens it.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn open_control(
        &mut self,
        requests: Option<Requests>,
    ) -> Result<Option<SocketAddr>, BindError> {
        let mut port = Port { requests, open: None };
        let control = match self.live.admin_closed {
            true => None,
            false => Some(self.bind_control(&self.live.admin, port.requests.clone()).await?),
        };
        let address = control.as_ref().map(|control| control.address);
        port.open = control.map(Open::from);
        self.control = Some(port);
        Ok(address)
    }

    /// The address of the admin port, where it is open.
    pub fn control(&self) -> Option<SocketAddr> {
        self.control.as_ref()?.open.as_ref().map(|open| open.address)
    }

    async fn bind_control(
        &self,
        admin: &config::Admin,
        requests: Option<Requests>,
    ) -> Result<Control, BindError> {
        let reports = self.reports();
        let take = Arc::new(move |body: &Bytes| reports.answer(body));
        Control::bind(admin.clone(), requests, Some(self.desk()), Some(take)).await
    }

    /// Puts a new configuration in place, or none of it. Names settings that wait for the next start.
    ///
    /// # Errors
    /// If a part cannot be made as configured; then everything runs on as it was.
    pub async fn reload(&mut self, config: &Config) -> Result<Vec<&'static str>, AppError> {
        let result = self.try_reload(config).await;
        match &result {
            Ok(()) => note_reload(&self.stats, &self.clock),
            Err(_) => self.refuse_reload(),
        }
        result?;
        self.keeper.keep(config);
        let waiting = self.live.changes(config);
        self.stats.restart.set(waiting.clone());
        if !waiting.is_empty() {
            tracing::warn!(settings = waiting.join(", "), "these changes take effect at the next start");
        }
        Ok(waiting)
    }

    /// Counts a configuration that could not even be read.
    pub fn refuse_reload(&self) {
        self.stats.reloads_refused.up();
        self.stats.last_reload_refused.set(1);
    }

    async fn try_reload(&mut self, config: &Config) -> Result<(), AppError> {
        config.owners.share(&self.names);
        let pushers = pushers(config, &self.published, &self.stats, &self.clock)?;
        let ready = self.asking.ready(&config.pollers, &self.around()).await;
        let ready = ready.into_iter().collect::<Result<Vec<_>, _>>().map_err(AppError::Poller)?;
        let ports = self.ports(config).await?;
        let desk = self.new_desk(config)?;
        let meter = meter(config, &self.shared, &self.stats, &self.clock);
        match hops(config, &meter, std::mem::take(&mut self.hops)).await {
            Ok(hops) => self.hops = hops.commit(&meter)?,
            Err(refused) => {
                self.hops = refused.running;
                pushers.stopper.stop();
                desk.into_iter().flat_map(|(_, task)| task).for_each(|task| task.abort());
                return Err(refused.error.into());
            }
        }
        if let Some((desk, task)) = desk {
            self.swap_desk(config, desk, task);
        }
        self.swap_rules(config).await;
        std::mem::replace(&mut self.pushers, pushers).stopper.stop();
        self.live.alerts = config.alerts.clone();
        self.swap_ports(config, ports);
        let mut asking = std::mem::take(&mut self.asking);
        asking.commit(&config.pollers, ready, &self.around()).await;
        self.asking = asking;
        self.live.pollers = config.pollers.clone();
        // They have no more to them than what others make of them.
        self.live.state_dir.clone_from(&config.state_dir);
        self.live.unread = Vec::new();
        Ok(())
    }

    /// Starts what asks, as the configuration says that is in force.
    async fn ask(&mut self, faults: &mut Faults) -> Result<(), AppError> {
        let (config, mut asking) = (self.live.pollers.clone(), Asking::default());
        let mut ready = Vec::new();
        for made in asking.ready(&config, &self.around()).await {
            ready.extend(faults.without(made.map_err(AppError::Poller))?);
        }
        tell_configured(&self.live, &self.shared, &self.clock).await;
        asking.commit(&config, ready, &self.around()).await;
        self.asking = asking;
        Ok(())
    }

    fn around(&self) -> Around<'_> {
        Around {
            shared: &self.shared,
            stats: &self.stats,
            clock: &self.clock,
            names: &self.names,
            rules: &self.rules,
            intake: &self.intake,
        }
    }

    /// Ports that move are listened on beside the old ones. One that only takes another address cannot be, and stays.
    async fn ports(&self, config: &Config) -> Result<Ports, AppError> {
        let mut ports = Ports { metrics: None, control: None };
        if beside(self.live.metrics, config.metrics) {
            ports.metrics = Some(bind_admin("metrics.bind", config.metrics).await?);
        }
        if let Some(port) = &self.control
            && (port.open.is_none() || beside(self.live.admin.bind, config.admin.bind))
        {
            let control = self.bind_control(&config.admin, port.requests.clone()).await;
            ports.control = Some(control?);
        }
        Ok(ports)
    }

    fn swap_ports(&mut self, config: &Config, ports: Ports) {
        if let Some(admin) = ports.metrics {
            self.metrics = admin.address;
            let (drain, quit) = (self.draining.stop_of(), self.quit.stop_of());
            let snapshots = self.published.snapshots.clone();
            let task = admin.spawn(snapshots, self.facts.clone(), drain, quit);
            std::mem::replace(&mut self.admin, task).abort();
            self.live.metrics = config.metrics;
        }
        let mut admin = config.admin.clone();
        if let Some(port) = &mut self.control {
            match (ports.control, &port.open) {
                (Some(control), _) => port.open = Some(Open::from(control)),
                // Where it stays on an address that others reach, its token stays too.
                (None, Some(open)) => {
                    admin.bind = self.live.admin.bind;
                    if !admin.bind.ip().is_loopback() && admin.token.is_none() {
                        admin.token.clone_from(&self.live.admin.token);
                    }
                    open.access.replace(&admin);
                }
                (None, None) => {}
            }
        }
        self.live.admin = admin;
        self.live.admin_closed = false;
    }

    /// The desk is made anew where it would answer otherwise.
    fn new_desk(&self, config: &Config) -> Result<Option<NewDesk>, AppError> {
        let same = config.evidence == self.live.evidence
            && config.fingerprint_key == self.live.fingerprint_key
            && config.external_url == self.live.external_url;
        if same {
            return Ok(None);
        }
        desk(config, &self.published, &self.facts, &self.tap, &self.scrubber, &self.clock).map(Some)
    }

    fn swap_desk(&mut self, config: &Config, mut made: Desk, task: Option<JoinHandle<()>>) {
        let status = |config: &Config| (config.evidence.status_page.clone(), config.evidence.status_interval);
        if status(config) == status(&self.live) {
            made.status.clone_from(&self.desk.now().status);
            task.iter().for_each(JoinHandle::abort);
        } else {
            std::mem::replace(&mut self.status, task).iter().for_each(JoinHandle::abort);
        }
        self.scrubber.store(Arc::new(Scrubber::new(ids(config))));
        self.desk.replace(made);
        self.live.evidence = config.evidence.clone();
        self.live.external_url.clone_from(&config.external_url);
        self.live.fingerprint_key.clone_from(&config.fingerprint_key);
    }

    /// What the engine and the sources go by. The routes are in place.
    async fn swap_rules(&mut self, config: &Config) {
        self.intake.rules.store(Arc::new(intake_rules(config)));
        self.rules.send_replace(rules_of(config));
        self.facts.owners.store(config.owners.clone());
        tell_configured(config, &self.shared, &self.clock).await;
        let live = &mut self.live;
        live.listeners.clone_from(&config.listeners);
        live.credentials.clone_from(&config.credentials);
        live.model_groups.clone_from(&config.model_groups);
        live.sources.places.clone_from(&config.sources.places);
        live.owners.clone_from(&config.owners);
        live.thresholds = config.thresholds;
        live.book = config.book;
        live.counting.clone_from(&config.counting);
        live.quotas.clone_from(&config.quotas);
    }
}
