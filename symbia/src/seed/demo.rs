//! The demo data, as it is: the same ids on every platform (platform.md §20).

/// Namespace of the ids of the seed's commands, and of what has no id of its own.
pub const NAMESPACE: uuid::Uuid = uuid::uuid!("5eed0000-e29b-41d4-a716-446655440000");
/// The password of every demo user. Everybody knows it: that is why production refuses the seed.
pub const PASSWORD: &str = "password123";

/// A plan.
pub struct Plan {
    pub id: &'static str,
    pub name: &'static str,
    pub features: &'static [&'static str],
    /// API calls, megabytes of storage, users; -1 is without limit.
    pub limits: [i64; 3],
    pub price_cents: u32,
}

/// The names of a plan's limits.
pub const LIMITS: [&str; 3] = ["api_calls", "storage_mb", "users"];

pub const PLANS: [Plan; 3] = [
    Plan {
        id: "plan-free",
        name: "Free",
        features: &["cap:catalog.read", "cap:messaging.read"],
        limits: [1_000, 100, 5],
        price_cents: 0,
    },
    Plan {
        id: "plan-pro",
        name: "Pro",
        features: &["cap:catalog.read", "cap:messaging.read", "cap:catalog.write", "cap:messaging.write"],
        limits: [100_000, 10_000, 50],
        price_cents: 4_900,
    },
    Plan {
        id: "plan-enterprise",
        name: "Enterprise",
        features: &[
            "cap:catalog.read",
            "cap:messaging.read",
            "cap:catalog.write",
            "cap:messaging.write",
            "cap:catalog.publish",
            "cap:messaging.interrupt",
        ],
        limits: [-1, -1, -1],
        price_cents: 24_900,
    },
];

/// A user, with what they may do.
pub struct User {
    pub name: &'static str,
    pub email: &'static str,
    pub super_admin: bool,
    pub entitlements: &'static [&'static str],
    pub roles: &'static [&'static str],
}

/// The id of the `n`-th user.
pub fn user_id(n: usize) -> String {
    format!("650e8400-e29b-41d4-a716-44665544000{n}")
}

pub const USERS: [User; 6] = [
    User {
        name: "Super Admin",
        email: "dev@example.com",
        super_admin: true,
        entitlements: &["cap:catalog.admin", "cap:registry.publish", "cap:messaging.interrupt"],
        roles: &["role:publisher", "role:developer", "role:operator"],
    },
    User {
        name: "Admin User",
        email: "admin@acme-corp.com",
        super_admin: false,
        entitlements: &["cap:catalog.write", "cap:catalog.publish", "cap:registry.write"],
        roles: &["role:publisher"],
    },
    User {
        name: "Member User",
        email: "member@acme-corp.com",
        super_admin: false,
        entitlements: &["cap:catalog.write", "cap:messaging.write"],
        roles: &["role:developer"],
    },
    User {
        name: "Viewer User",
        email: "viewer@acme-corp.com",
        super_admin: false,
        entitlements: &["cap:catalog.read", "cap:messaging.read"],
        roles: &[],
    },
    User { name: "Test User 1", email: "test1@example.com", super_admin: false, entitlements: &[], roles: &[] },
    User { name: "Test User 2", email: "test2@example.com", super_admin: false, entitlements: &[], roles: &[] },
];

/// An organization. Its first member founds it and is an admin.
pub struct Org {
    pub id: &'static str,
    pub name: &'static str,
    pub slug: &'static str,
    pub plan: &'static str,
    pub members: &'static [(usize, &'static str)],
}

/// The organization that has a mesh.
pub const LABS: &str = "550e8400-e29b-41d4-a716-446655440000";
const ACME: &str = "550e8400-e29b-41d4-a716-446655440001";
const TEST: &str = "550e8400-e29b-41d4-a716-446655440002";

pub const ORGS: [Org; 3] = [
    Org {
        id: LABS,
        name: "Symbia Labs",
        slug: "symbia-labs",
        plan: "plan-enterprise",
        members: &[(0, "admin"), (1, "admin")],
    },
    Org {
        id: ACME,
        name: "Acme Corp",
        slug: "acme-corp",
        plan: "plan-pro",
        members: &[(1, "admin"), (2, "member"), (3, "viewer")],
    },
    Org {
        id: TEST,
        name: "Test Organization",
        slug: "test-org",
        plan: "plan-free",
        members: &[(4, "admin"), (5, "member")],
    },
];

/// A project.
pub struct Project {
    pub id: &'static str,
    pub name: &'static str,
    pub slug: &'static str,
    pub org: &'static str,
}

pub const PROJECTS: [Project; 2] = [
    Project { id: "750e8400-e29b-41d4-a716-446655440000", name: "Core", slug: "core", org: LABS },
    Project { id: "750e8400-e29b-41d4-a716-446655440001", name: "Test", slug: "test", org: TEST },
];

/// An agent. It has no credential until an admin gives it one.
pub struct Agent {
    pub id: &'static str,
    pub handle: &'static str,
    pub name: &'static str,
    pub org: &'static str,
}

/// What the agents may do.
pub const AGENT_CAPABILITIES: [&str; 2] = ["cap:messaging.interrupt", "cap:messaging.route"];

pub const AGENTS: [Agent; 2] = [
    Agent { id: "b50e8400-e29b-41d4-a716-446655440000", handle: "agent:welcome", name: "Welcome", org: LABS },
    Agent { id: "b50e8400-e29b-41d4-a716-446655440001", handle: "agent:support", name: "Support", org: ACME },
];

/// A conversation with its owner.
pub struct Conversation {
    pub id: &'static str,
    pub name: &'static str,
    pub org: &'static str,
    pub owner: usize,
}

pub const CONVERSATIONS: [Conversation; 2] = [
    Conversation { id: "a50e8400-e29b-41d4-a716-446655440000", name: "Welcome to Symbia", org: LABS, owner: 0 },
    Conversation { id: "a50e8400-e29b-41d4-a716-446655440001", name: "Support Request", org: ACME, owner: 2 },
];
