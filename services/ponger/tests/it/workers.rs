//! How many threads serve connections: one for each processor that the process may use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use ponger::limits::worker_count;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use testkit::process::Service;

use crate::support::{Env, PROGRAM, connect_and_ping};

/// Starts ponger after a line of shell, and counts its threads that serve connections.
fn workers_after(line: &str) -> usize {
    let env = Env::new();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{line} exec \"$0\" \"$@\""), PROGRAM, "-c"]);
    let ponger = Service::spawn(command.arg(env.write_config("")));
    // Then all have started.
    connect_and_ping(&env.pinger(), ponger.address());
    assert_eq!(ponger.admin_get("/livez").status, 200);
    let tasks = fs::read_dir(format!("/proc/{}/task", ponger.id())).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    // The admin listener has one of them.
    names.filter(|name| name.starts_with("actix-rt")).count() - 1
}

#[test]
fn has_a_worker_for_each_processor_of_its_affinity() {
    assert_eq!(workers_after(""), worker_count());
    // A process inherits the affinity of the thread that starts it; this one starts no other.
    let of_one = thread::spawn(|| {
        let all = sched_getaffinity(None).unwrap();
        let mut first = CpuSet::new();
        first.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
        sched_setaffinity(None, &first).unwrap();
        workers_after("")
    });
    assert_eq!(of_one.join().unwrap(), 1);
}

/// A cgroup with a limit of processor time; removed when dropped, after its processes have ended.
struct Cgroup(PathBuf);

impl Cgroup {
    /// One that may use a whole processor and no more.
    fn of_one_processor() -> Self {
        let name = format!("ping-pong-test-{}", std::process::id());
        let first_version = Path::new("/sys/fs/cgroup/cpu");
        let (dir, file, limit) = if first_version.is_dir() {
            (first_version.join(name), "cpu.cfs_quota_us", "100000")
        } else {
            (Path::new("/sys/fs/cgroup").join(name), "cpu.max", "100000 100000")
        };
        fs::create_dir(&dir).unwrap();
        let cgroup = Self(dir);
        fs::write(cgroup.0.join(file), limit).unwrap();
        cgroup
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
#[ignore = "creates a cgroup, which takes root"]
fn has_as_many_workers_as_its_cgroup_has_processors() {
    let cgroup = Cgroup::of_one_processor();
    let workers = workers_after(&format!("echo $$ >{}/cgroup.procs &&", cgroup.0.display()));
    assert_eq!(workers, 1);
}
