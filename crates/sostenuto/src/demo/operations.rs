//! What the services do for one another, as data: each operation and the steps it takes.

/// A remote operation of a service.
pub struct Operation {
    /// The name that steps call it by.
    pub id: &'static str,
    pub service: &'static str,
    pub protocol: Protocol,
    pub steps: &'static [Step],
    /// The median time of the operation's own work.
    pub micros: u64,
}

#[derive(Clone, Copy)]
pub enum Protocol {
    /// Method and route.
    Http(&'static str, &'static str),
    /// Service and method of gRPC.
    Rpc(&'static str, &'static str),
}

pub enum Step {
    /// Calls an operation; its failure is ours.
    Call(&'static str),
    /// Calls an operation; without its answer we go on.
    Try(&'static str),
    /// Calls operations at the same time; without their answers we go on.
    Together(&'static [&'static str]),
    /// A statement: verb, table, the rest of the text, median time.
    Sql(&'static str, &'static str, &'static str, u64),
    /// Looks for a key of this kind in Redis, and stores it after a miss.
    Cache(&'static str),
    /// Asks the search index.
    Find(&'static str, u64),
    /// Work inside the process: name, median time.
    Local(&'static str, u64),
    /// Charges the card at the payment provider, with retries.
    Charge,
    /// Asks each supplier for its stock, several at once.
    AskSuppliers,
    /// Publishes a message to a topic.
    Publish(&'static str),
    /// Evaluates a feature flag: an event on the span.
    Flag(&'static str),
}

use Protocol::{Http, Rpc};
use Step::{AskSuppliers, Cache, Call, Charge, Find, Flag, Local, Publish, Sql, Together, Try};

pub const OPERATIONS: &[Operation] = &[
    // What a browser asks for.
    Operation {
        id: "home",
        service: "frontend",
        protocol: Http("GET", "/"),
        steps: &[
            Flag("new-home-page"),
            Call("gateway products"),
            Together(&["recommend", "ads"]),
            Local("render", 4_000),
        ],
        micros: 1_500,
    },
    Operation {
        id: "product page",
        service: "frontend",
        protocol: Http("GET", "/products/{id}"),
        steps: &[Call("gateway product"), Together(&["recommend", "ads"]), Local("render", 3_000)],
        micros: 1_200,
    },
    Operation {
        id: "search page",
        service: "frontend",
        protocol: Http("GET", "/search"),
        steps: &[Call("gateway search"), Local("render", 2_500)],
        micros: 1_000,
    },
    Operation {
        id: "login",
        service: "frontend",
        protocol: Http("POST", "/login"),
        steps: &[Call("gateway login")],
        micros: 900,
    },
    Operation {
        id: "add to cart",
        service: "frontend",
        protocol: Http("POST", "/cart/items"),
        steps: &[Call("gateway cart")],
        micros: 1_000,
    },
    Operation {
        id: "checkout",
        service: "frontend",
        protocol: Http("POST", "/checkout"),
        steps: &[Flag("one-click-checkout"), Call("gateway checkout"), Local("render", 2_000)],
        micros: 1_800,
    },
    // The gateway.
    Operation {
        id: "gateway products",
        service: "gateway",
        protocol: Http("GET", "/api/products"),
        steps: &[Call("list products"), Try("prices")],
        micros: 400,
    },
    Operation {
        id: "gateway product",
        service: "gateway",
        protocol: Http("GET", "/api/products/{id}"),
        steps: &[Call("get product"), Try("price"), Try("stock")],
        micros: 400,
    },
    Operation {
        id: "gateway search",
        service: "gateway",
        protocol: Http("GET", "/api/search"),
        steps: &[Call("search"), Try("prices")],
        micros: 400,
    },
    Operation {
        id: "gateway login",
        service: "gateway",
        protocol: Http("POST", "/api/session"),
        steps: &[
            Sql("SELECT", "users", "id, password_hash FROM users WHERE email = $1", 1_800),
            Local("argon2.verify", 45_000),
        ],
        micros: 500,
    },
    Operation {
        id: "gateway cart",
        service: "gateway",
        protocol: Http("POST", "/api/cart/{user_id}/items"),
        steps: &[Call("add item")],
        micros: 350,
    },
    Operation {
        id: "gateway checkout",
        service: "gateway",
        protocol: Http("POST", "/api/checkout"),
        steps: &[Call("place order")],
        micros: 450,
    },
    // Catalogue, search, advice.
    Operation {
        id: "list products",
        service: "catalog",
        protocol: Rpc("shop.Catalog", "ListProducts"),
        steps: &[
            Cache("products:page"),
            Sql("SELECT", "products", "* FROM products WHERE category = $1 ORDER BY rank LIMIT 24", 4_500),
        ],
        micros: 600,
    },
    Operation {
        id: "get product",
        service: "catalog",
        protocol: Rpc("shop.Catalog", "GetProduct"),
        steps: &[Cache("product"), Sql("SELECT", "products", "* FROM products WHERE id = $1", 1_600)],
        micros: 350,
    },
    Operation {
        id: "search",
        service: "search",
        protocol: Http("GET", "/v1/search"),
        steps: &[Local("parse query", 120), Find("products", 14_000), Call("list products")],
        micros: 900,
    },
    Operation {
        id: "recommend",
        service: "recommendation",
        protocol: Rpc("shop.Recommendation", "ListRecommendations"),
        steps: &[Cache("recommendation"), Local("model.predict", 22_000), Call("get product")],
        micros: 1_500,
    },
    Operation {
        id: "ads",
        service: "ads",
        protocol: Rpc("shop.Ads", "GetAds"),
        steps: &[Cache("campaign")],
        micros: 900,
    },
    // Money.
    Operation {
        id: "price",
        service: "pricing",
        protocol: Rpc("shop.Pricing", "GetPrice"),
        steps: &[Cache("price"), Sql("SELECT", "prices", "amount, currency FROM prices WHERE product_id = $1", 1_300)],
        micros: 500,
    },
    Operation {
        id: "prices",
        service: "pricing",
        protocol: Rpc("shop.Pricing", "ListPrices"),
        steps: &[
            Sql("SELECT", "prices", "product_id, amount FROM prices WHERE product_id = ANY($1)", 3_200),
            Call("convert"),
        ],
        micros: 900,
    },
    Operation {
        id: "convert",
        service: "currency",
        protocol: Rpc("shop.Currency", "Convert"),
        steps: &[],
        micros: 250,
    },
    Operation {
        id: "charge",
        service: "payment",
        protocol: Rpc("shop.Payment", "Charge"),
        steps: &[
            Try("check fraud"),
            Charge,
            Sql("INSERT", "payments", "INTO payments (order_id, amount, state) VALUES ($1, $2, $3)", 2_400),
        ],
        micros: 900,
    },
    Operation {
        id: "check fraud",
        service: "fraud",
        protocol: Http("POST", "/v1/score"),
        steps: &[Cache("fraud:features"), Local("model.score", 18_000)],
        micros: 1_200,
    },
    // The order.
    Operation {
        id: "add item",
        service: "cart",
        protocol: Rpc("shop.Cart", "AddItem"),
        steps: &[Cache("cart"), Try("stock")],
        micros: 450,
    },
    Operation {
        id: "get cart",
        service: "cart",
        protocol: Rpc("shop.Cart", "GetCart"),
        steps: &[Cache("cart")],
        micros: 300,
    },
    Operation {
        id: "place order",
        service: "checkout",
        protocol: Rpc("shop.Checkout", "PlaceOrder"),
        steps: &[
            Call("get cart"),
            Call("prices"),
            Call("reserve"),
            Call("charge"),
            Sql("INSERT", "orders", "INTO orders (id, user_id, total) VALUES ($1, $2, $3)", 3_100),
            Publish("orders"),
        ],
        micros: 1_400,
    },
    Operation {
        id: "stock",
        service: "inventory",
        protocol: Rpc("shop.Inventory", "GetStock"),
        steps: &[Sql("SELECT", "stock", "quantity FROM stock WHERE product_id = $1", 1_500)],
        micros: 400,
    },
    Operation {
        id: "reserve",
        service: "inventory",
        protocol: Rpc("shop.Inventory", "Reserve"),
        steps: &[Sql("UPDATE", "stock", "stock SET reserved = reserved + $2 WHERE product_id = $1", 4_800)],
        micros: 700,
    },
    // Timers and consumers: what `Customers` starts by itself.
    Operation {
        id: "sync stock",
        service: "inventory",
        protocol: Rpc("shop.Inventory", "SyncStock"),
        steps: &[
            AskSuppliers,
            Sql(
                "UPDATE",
                "stock",
                "stock SET quantity = s.quantity FROM supplied s WHERE stock.product_id = s.product_id",
                60_000,
            ),
        ],
        micros: 5_000,
    },
    Operation {
        id: "ship",
        service: "shipping",
        protocol: Rpc("shop.Shipping", "CreateParcel"),
        steps: &[
            Local("choose carrier", 900),
            Sql("INSERT", "parcels", "INTO parcels (order_id, carrier) VALUES ($1, $2)", 2_200),
        ],
        micros: 600,
    },
    Operation {
        id: "confirm",
        service: "email",
        protocol: Http("POST", "/v1/confirmations"),
        steps: &[Local("render template", 6_000), Local("smtp.send", 90_000)],
        micros: 800,
    },
];

pub fn operation(id: &str) -> &'static Operation {
    OPERATIONS.iter().find(|operation| operation.id == id).expect("steps name operations of the table")
}
