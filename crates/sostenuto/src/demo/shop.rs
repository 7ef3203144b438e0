//! The shop's services: what they are written in, where they run, and which release each instance has.

use proto::otlp::{common::v1::KeyValue, resource::v1::Resource};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::attributes::{hex, text, texts, whole};

/// One service of the shop.
pub struct Service {
    pub name: String,
    pub language: Language,
    /// Indexes into [`Shop::instances`].
    pub instances: Vec<usize>,
}

/// One running copy of a service: what an SDK calls a resource.
pub struct Instance {
    pub service: usize,
    pub version: &'static str,
    pub pod: String,
    pub resource: Resource,
}

pub struct Shop {
    pub services: Vec<Service>,
    pub instances: Vec<Instance>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Go,
    Java,
    Python,
    NodeJs,
    DotNet,
    Rust,
}

impl Language {
    pub fn sdk(self) -> (&'static str, &'static str) {
        match self {
            Self::Go => ("go", "1.38.0"),
            Self::Java => ("java", "1.54.0"),
            Self::Python => ("python", "1.37.0"),
            Self::NodeJs => ("nodejs", "2.1.0"),
            Self::DotNet => ("dotnet", "1.12.0"),
            Self::Rust => ("rust", "0.31.0"),
        }
    }

    fn runtime(self) -> (&'static str, &'static str) {
        match self {
            Self::Go => ("go", "go1.25.1"),
            Self::Java => ("OpenJDK Runtime Environment", "21.0.8+9"),
            Self::Python => ("cpython", "3.13.7"),
            Self::NodeJs => ("nodejs", "22.19.0"),
            Self::DotNet => (".NET", "9.0.8"),
            Self::Rust => ("rustc", "1.90.0"),
        }
    }
}

/// The services every shop has, with their language, usual release and number of instances.
const BASE: [(&str, Language, &str, usize); 16] = [
    ("frontend", Language::NodeJs, "3.12.1", 3),
    ("gateway", Language::Go, "1.8.4", 3),
    ("catalog", Language::Go, "2.19.0", 2),
    ("search", Language::Rust, "0.14.2", 2),
    ("recommendation", Language::Python, "1.6.3", 2),
    ("ads", Language::Java, "1.1.0", 1),
    ("pricing", Language::Java, "2.3.7", 3),
    ("currency", Language::DotNet, "1.0.9", 1),
    ("cart", Language::DotNet, "4.0.2", 2),
    ("checkout", Language::Go, "5.2.0", 2),
    ("payment", Language::Java, "3.3.1", 2),
    ("fraud", Language::Python, "0.9.5", 1),
    ("inventory", Language::Java, "2.8.0", 2),
    ("orders", Language::Java, "1.15.2", 2),
    ("shipping", Language::Rust, "0.7.1", 1),
    ("email", Language::NodeJs, "2.2.0", 1),
];

/// The fewest services a shop can have.
pub const SERVICES_MIN: usize = BASE.len();
/// More are no use to anyone, and each costs a request per flush.
pub const SERVICES_MAX: usize = 500;

/// The service with a bad release, and that release: it runs on one instance and fails often.
pub const BAD_RELEASE: (&str, &str) = ("pricing", "2.4.0");

const ZONES: [(&str, &str); 3] =
    [("eu-central-1", "eu-central-1a"), ("eu-central-1", "eu-central-1b"), ("us-east-1", "us-east-1c")];

impl Shop {
    /// A shop of `services` services; those beyond the usual ones are suppliers that the inventory asks.
    pub fn open(services: usize, random: &mut StdRng) -> Self {
        let mut shop = Self { services: Vec::new(), instances: Vec::new() };
        for (name, language, version, count) in BASE {
            shop.add(name.to_owned(), language, version, count, random);
        }
        for number in 1..=services.clamp(SERVICES_MIN, SERVICES_MAX) - SERVICES_MIN {
            let language = [Language::Go, Language::Java, Language::Python][number % 3];
            shop.add(format!("supplier-{number:02}"), language, "1.0.0", 1, random);
        }
        shop
    }

    fn add(&mut self, name: String, language: Language, version: &'static str, count: usize, random: &mut StdRng) {
        let service = self.services.len();
        let mut instances = Vec::with_capacity(count);
        let deployment = format!("{name}-{:010x}", random.random::<u64>() & 0xff_ffff_ffff);
        for number in 0..count {
            let version = match (name.as_str() == BAD_RELEASE.0, number) {
                (true, 0) => BAD_RELEASE.1,
                _ => version,
            };
            let pod = format!("{deployment}-{:05x}", random.random::<u32>() & 0xf_ffff);
            let resource = Resource {
                attributes: resource_attributes(&name, language, version, &pod, random),
                ..Resource::default()
            };
            instances.push(self.instances.len());
            self.instances.push(Instance { service, version, pod, resource });
        }
        self.services.push(Service { name, language, instances });
    }

    pub fn service(&self, name: &str) -> usize {
        self.services.iter().position(|service| service.name == name).expect("journeys name services of the shop")
    }

    pub fn suppliers(&self) -> std::ops::Range<usize> {
        SERVICES_MIN..self.services.len()
    }

    /// An instance of `service`, as a load balancer would choose it.
    pub fn pick(&self, service: usize, random: &mut StdRng) -> usize {
        *self.services[service].instances.choose(random).expect("every service has an instance")
    }
}

fn resource_attributes(name: &str, language: Language, version: &str, pod: &str, random: &mut StdRng) -> Vec<KeyValue> {
    let (region, zone) = *ZONES.choose(random).expect("there are zones");
    let (sdk, sdk_version) = language.sdk();
    let (runtime, runtime_version) = language.runtime();
    vec![
        text("service.name", name),
        text("service.namespace", "shop"),
        text("service.version", version),
        text("service.instance.id", hex(&random.random::<[u8; 16]>())),
        text("deployment.environment.name", "production"),
        text("k8s.cluster.name", format!("shop-{region}")),
        text("k8s.namespace.name", "shop"),
        text("k8s.deployment.name", name),
        text("k8s.pod.name", pod),
        text("k8s.pod.uid", hex(&random.random::<[u8; 16]>())),
        text("k8s.node.name", format!("ip-10-2-{}-{}", random.random_range(0..8), random.random_range(2..250))),
        text("k8s.container.name", name),
        texts("container.image.tags", &[version, "latest"]),
        text("cloud.provider", "aws"),
        text("cloud.region", region),
        text("cloud.availability_zone", zone),
        text("host.name", pod),
        text("host.arch", "arm64"),
        text("os.type", "linux"),
        whole("process.pid", 1),
        text("process.runtime.name", runtime),
        text("process.runtime.version", runtime_version),
        text("telemetry.sdk.name", "opentelemetry"),
        text("telemetry.sdk.language", sdk),
        text("telemetry.sdk.version", sdk_version),
    ]
}
