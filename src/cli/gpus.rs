//! The GPUs that programs may use.

use std::path::Path;

/// The variable that tells CUDA which GPUs a process may use.
const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";
/// Has a folder for each GPU, if NVIDIA's driver is loaded.
const DRIVER: &str = "/proc/driver/nvidia/gpus";

/// The GPUs that this process may use, named as in `CUDA_VISIBLE_DEVICES`: those that the variable names, or else all
/// GPUs of this machine.
pub(super) fn visible() -> Vec<String> {
    match std::env::var_os(VARIABLE) {
        Some(value) => named(&value.to_string_lossy()),
        None => (0..installed(Path::new(DRIVER), Path::new("/dev"))).map(|gpu| gpu.to_string()).collect(),
    }
}

/// The GPUs in a value of the variable. As in CUDA, the first that can't exist ends the list.
fn named(value: &str) -> Vec<String> {
    let mut gpus: Vec<String> = Vec::new();
    for gpu in value.split(',').map(str::trim) {
        if gpu.is_empty() || gpu.starts_with('-') || gpu == "NoDevFiles" {
            break;
        }
        if !gpus.iter().any(|known| known == gpu) {
            gpus.push(gpu.to_owned());
        }
    }
    gpus
}

/// The number of NVIDIA GPUs: according to the driver, or else to the device files in `dev`.
fn installed(driver: &Path, dev: &Path) -> usize {
    let count = |folder: &Path, is_gpu: fn(&str) -> bool| {
        let entries = folder.read_dir().into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()
    };
    let is_device = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    match count(driver, |_| true) {
        0 => count(dev, is_device),
        gpus => gpus,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_numbers_or_uuids_up_to_the_first_that_cannot_exist() {
        assert_eq!(named("0,2"), ["0", "2"]);
        assert_eq!(named(" GPU-8a2f , MIG-41b7,0"), ["GPU-8a2f", "MIG-41b7", "0"]);
        assert_eq!(named("1,-1,0"), ["1"]);
        assert_eq!(named("1,1,0"), ["1", "0"]);
        assert_eq!(named(""), [""; 0]);
        assert_eq!(named("NoDevFiles"), [""; 0]);
    }

    #[test]
    fn gpus_of_the_machine_are_counted_by_the_driver_or_the_device_files() {
        let (driver, dev) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let count = || installed(driver.path(), dev.path());
        assert_eq!(count(), 0);
        for name in ["nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm", "null"] {
            std::fs::write(dev.path().join(name), "").unwrap();
        }
        assert_eq!(count(), 3);
        std::fs::create_dir(driver.path().join("0000:01:00.0")).unwrap();
        assert_eq!(count(), 1);
        assert_eq!(installed(Path::new("/nowhere"), Path::new("/nowhere")), 0);
    }
}
