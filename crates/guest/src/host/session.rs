//! The interfaces `session` and `config`.

use std::time::Duration;

use container::session::TimerView;

use super::{Host, wit};

impl wit::session::Host for Host {
    fn id(&mut self) -> String {
        self.session_id().map(|id| id.to_string()).unwrap_or_default()
    }

    fn now(&mut self) -> u64 {
        self.overlay.as_ref().map_or(0, |overlay| overlay.view().now.0)
    }

    fn created(&mut self) -> u64 {
        self.overlay.as_ref().map_or(0, |overlay| overlay.view().created.0)
    }

    fn expires(&mut self) -> u64 {
        self.overlay.as_ref().map_or(0, |overlay| overlay.view().expires.0)
    }

    fn key(&mut self) -> Option<String> {
        let key = self.overlay.as_ref()?.view().key.as_ref()?;
        // Guests give keys as text.
        Some(String::from_utf8_lossy(key).into_owned())
    }

    fn get(&mut self, name: String) -> Option<Vec<u8>> {
        let attributes = self.overlay.as_ref().map(|overlay| &overlay.view().attributes)?;
        attributes.get(&name).map(|value| value.to_vec())
    }

    fn set(&mut self, name: String, value: Vec<u8>) -> Result<(), wit::types::Error> {
        Ok(self.session()?.set(name, value)?)
    }

    fn remove(&mut self, name: String) {
        if let Some(overlay) = &mut self.overlay {
            overlay.remove(&name);
        }
    }

    fn names(&mut self) -> Vec<String> {
        let attributes = self.overlay.as_ref().map(|overlay| &overlay.view().attributes);
        attributes.map(|attributes| attributes.keys().cloned().collect()).unwrap_or_default()
    }

    fn start_timer(
        &mut self,
        name: String,
        after: u64,
        every: Option<u64>,
    ) -> Result<(), wit::types::Error> {
        let every = every.map(Duration::from_millis);
        Ok(self.session()?.start_timer(name, Duration::from_millis(after), every)?)
    }

    fn stop_timer(&mut self, name: String) {
        if let Some(overlay) = &mut self.overlay {
            overlay.stop_timer(&name);
        }
    }

    fn timers(&mut self) -> Vec<wit::session::Timer> {
        let timer = |timer: &TimerView| wit::session::Timer {
            name: timer.name.clone(),
            due: timer.due.0,
            every: timer.every.map(millis),
        };
        let timers = self.overlay.as_ref().map(|overlay| &overlay.view().timers);
        timers.map(|timers| timers.iter().map(timer).collect()).unwrap_or_default()
    }

    fn expire_after(&mut self, after: u64) -> Result<(), wit::types::Error> {
        Ok(self.session()?.expire_after(Duration::from_millis(after))?)
    }

    fn end_when_ready(&mut self, wanted: bool) {
        if let Some(overlay) = &mut self.overlay {
            overlay.end_when_ready(wanted);
        }
    }

    fn invalidate(&mut self) {
        if let Some(overlay) = &mut self.overlay {
            overlay.invalidate();
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl wit::config::Host for Host {
    fn get(&mut self, key: String) -> Option<String> {
        self.application.config.get(&key).cloned()
    }

    fn all(&mut self) -> Vec<(String, String)> {
        let values = self.application.config.iter();
        values.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl wit::types::Host for Host {}
