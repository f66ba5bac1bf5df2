//! The functions of Kubernetes' CEL and their overloads.
//! Not here: what they do (`functions`), what they cost (`cost`, `estimate`).
//! Upstream: cel-go `common/stdlib`, `ext`; apiserver `pkg/cel/library`.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::types::Type;

/// One overload of a function.
#[derive(Debug)]
pub(super) struct Overload {
    /// Its name, by which costs are told apart.
    pub id: &'static str,
    /// Whether it is called on its first argument.
    pub method: bool,
    /// The arguments; the target of a method is the first.
    pub arguments: Vec<Type>,
    /// What it gives.
    pub result: Type,
}

/// The overloads of a function, by its name.
pub(super) fn overloads(function: &str) -> Option<&'static [Overload]> {
    static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
        let mut functions: HashMap<&str, Vec<Overload>> = HashMap::new();
        let lines = TABLE.lines().map(str::trim).filter(|line| !line.is_empty());
        for (function, overload) in lines.filter_map(parse) {
            functions.entry(function).or_default().push(overload);
        }
        functions
    });
    FUNCTIONS.get(function).map(Vec::as_slice)
}

/// `[.]name id argument… -> result`; a leading dot makes a method.
fn parse(line: &'static str) -> Option<(&'static str, Overload)> {
    let (left, result) = line.split_once(" -> ")?;
    let mut words = left.split_whitespace();
    let (name, id) = (words.next()?, words.next()?);
    let (name, method) = match name.strip_prefix('.') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let arguments = words.map(|word| read(word).map(|(found, _)| found)).collect::<Option<Vec<_>>>()?;
    Some((name, Overload { id, method, arguments, result: read(result)?.0 }))
}

/// A type out of the front of `text`, and the rest.
fn read(text: &'static str) -> Option<(Type, &'static str)> {
    let end = text.find(['(', ',', ')']).unwrap_or(text.len());
    let (word, mut rest) = text.split_at(end);
    let mut parameters = Vec::new();
    if let Some(inner) = rest.strip_prefix('(') {
        rest = inner;
        loop {
            let (parameter, after) = read(rest)?;
            parameters.push(parameter);
            match after.split_at_checked(1)? {
                (",", after) => rest = after,
                (_, after) => {
                    rest = after;
                    break;
                }
            }
        }
    }
    let mut parameters = parameters.into_iter();
    let found = match word {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Kind,
        "list" => Type::list(parameters.next()?),
        "map" => Type::map(parameters.next()?, parameters.next()?),
        "optional" => Type::optional(parameters.next()?),
        "A" | "B" | "C" => Type::Var(u32::from(word.as_bytes()[0] - b'A')),
        "URL" => Type::Opaque(URL),
        "IP" => Type::Opaque(IP),
        "CIDR" => Type::Opaque(CIDR),
        "Quantity" => Type::Opaque(QUANTITY),
        "Semver" => Type::Opaque(SEMVER),
        "Format" => Type::Opaque(FORMAT),
        "Authorizer" => Type::Opaque(AUTHORIZER),
        "PathCheck" => Type::Opaque(PATH_CHECK),
        "GroupCheck" => Type::Opaque(GROUP_CHECK),
        "ResourceCheck" => Type::Opaque(RESOURCE_CHECK),
        "Decision" => Type::Opaque(DECISION),
        _ => return None,
    };
    Some((found, rest))
}

pub(super) const URL: &str = "kubernetes.URL";
pub(super) const IP: &str = "net.IP";
pub(super) const CIDR: &str = "net.CIDR";
/// The type of quantities.
pub const QUANTITY: &str = "kubernetes.Quantity";
pub(super) const SEMVER: &str = "kubernetes.Semver";
pub(super) const FORMAT: &str = "kubernetes.NamedFormat";
/// What asks whether someone may do something.
pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(super) const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub(super) const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
/// A check for one resource.
pub const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
pub(super) const DECISION: &str = "kubernetes.authorization.Decision";

/// Names that stand for types.
pub(super) const TYPES: &[&str] = &[
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "optional_type",
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    URL,
    IP,
    CIDR,
    QUANTITY,
    SEMVER,
    FORMAT,
];

const TABLE: &str = "
_&&_ logical_and bool bool -> bool
_||_ logical_or bool bool -> bool
!_ logical_not bool -> bool
@not_strictly_false not_strictly_false bool -> bool
_?_:_ conditional bool A A -> A
_==_ equals A A -> bool
_!=_ not_equals A A -> bool
@in in_list A list(A) -> bool
@in in_map A map(A,B) -> bool
_[_] index_list list(A) int -> A
_[_] index_map map(A,B) A -> B
_[_] optional_list_index_value optional(list(A)) int -> optional(A)
_[_] optional_map_index_value optional(map(A,B)) A -> optional(B)
_[?_] list_optindex_optional_int list(A) int -> optional(A)
_[?_] optional_list_optindex_optional_int optional(list(A)) int -> optional(A)
_[?_] map_optindex_optional_value map(A,B) A -> optional(B)
_[?_] optional_map_optindex_optional_value optional(map(A,B)) A -> optional(B)
_+_ add_int64 int int -> int
_+_ add_uint64 uint uint -> uint
_+_ add_double double double -> double
_+_ add_string string string -> string
_+_ add_bytes bytes bytes -> bytes
_+_ add_list list(A) list(A) -> list(A)
_+_ add_duration_duration duration duration -> duration
_+_ add_duration_timestamp duration timestamp -> timestamp
_+_ add_timestamp_duration timestamp duration -> timestamp
_-_ subtract_int64 int int -> int
_-_ subtract_uint64 uint uint -> uint
_-_ subtract_double double double -> double
_-_ subtract_duration_duration duration duration -> duration
_-_ subtract_timestamp_duration timestamp duration -> timestamp
_-_ subtract_timestamp_timestamp timestamp timestamp -> duration
_*_ multiply_int64 int int -> int
_*_ multiply_uint64 uint uint -> uint
_*_ multiply_double double double -> double
_/_ divide_int64 int int -> int
_/_ divide_uint64 uint uint -> uint
_/_ divide_double double double -> double
_%_ modulo_int64 int int -> int
_%_ modulo_uint64 uint uint -> uint
-_ negate_int64 int -> int
-_ negate_double double -> double
_<_ less_bool bool bool -> bool
_<_ less_int64 int int -> bool
_<_ less_int64_double int double -> bool
_<_ less_int64_uint64 int uint -> bool
_<_ less_uint64 uint uint -> bool
_<_ less_uint64_double uint double -> bool
_<_ less_uint64_int64 uint int -> bool
_<_ less_double double double -> bool
_<_ less_double_int64 double int -> bool
_<_ less_double_uint64 double uint -> bool
_<_ less_string string string -> bool
_<_ less_bytes bytes bytes -> bool
_<_ less_timestamp timestamp timestamp -> bool
_<_ less_duration duration duration -> bool
_<=_ less_equals_bool bool bool -> bool
_<=_ less_equals_int64 int int -> bool
_<=_ less_equals_int64_double int double -> bool
_<=_ less_equals_int64_uint64 int uint -> bool
_<=_ less_equals_uint64 uint uint -> bool
_<=_ less_equals_uint64_double uint double -> bool
_<=_ less_equals_uint64_int64 uint int -> bool
_<=_ less_equals_double double double -> bool
_<=_ less_equals_double_int64 double int -> bool
_<=_ less_equals_double_uint64 double uint -> bool
_<=_ less_equals_string string string -> bool
_<=_ less_equals_bytes bytes bytes -> bool
_<=_ less_equals_timestamp timestamp timestamp -> bool
_<=_ less_equals_duration duration duration -> bool
_>_ greater_bool bool bool -> bool
_>_ greater_int64 int int -> bool
_>_ greater_int64_double int double -> bool
_>_ greater_int64_uint64 int uint -> bool
_>_ greater_uint64 uint uint -> bool
_>_ greater_uint64_double uint double -> bool
_>_ greater_uint64_int64 uint int -> bool
_>_ greater_double double double -> bool
_>_ greater_double_int64 double int -> bool
_>_ greater_double_uint64 double uint -> bool
_>_ greater_string string string -> bool
_>_ greater_bytes bytes bytes -> bool
_>_ greater_timestamp timestamp timestamp -> bool
_>_ greater_duration duration duration -> bool
_>=_ greater_equals_bool bool bool -> bool
_>=_ greater_equals_int64 int int -> bool
_>=_ greater_equals_int64_double int double -> bool
_>=_ greater_equals_int64_uint64 int uint -> bool
_>=_ greater_equals_uint64 uint uint -> bool
_>=_ greater_equals_uint64_double uint double -> bool
_>=_ greater_equals_uint64_int64 uint int -> bool
_>=_ greater_equals_double double double -> bool
_>=_ greater_equals_double_int64 double int -> bool
_>=_ greater_equals_double_uint64 double uint -> bool
_>=_ greater_equals_string string string -> bool
_>=_ greater_equals_bytes bytes bytes -> bool
_>=_ greater_equals_timestamp timestamp timestamp -> bool
_>=_ greater_equals_duration duration duration -> bool
size size_bytes bytes -> int
size size_list list(A) -> int
size size_map map(A,B) -> int
size size_string string -> int
.size bytes_size bytes -> int
.size list_size list(A) -> int
.size map_size map(A,B) -> int
.size string_size string -> int
type type A -> type
dyn to_dyn A -> dyn
bool bool_to_bool bool -> bool
bool string_to_bool string -> bool
bytes bytes_to_bytes bytes -> bytes
bytes string_to_bytes string -> bytes
double double_to_double double -> double
double int64_to_double int -> double
double string_to_double string -> double
double uint64_to_double uint -> double
duration duration_to_duration duration -> duration
duration int64_to_duration int -> duration
duration string_to_duration string -> duration
int int64_to_int64 int -> int
int double_to_int64 double -> int
int duration_to_int64 duration -> int
int string_to_int64 string -> int
int timestamp_to_int64 timestamp -> int
int uint64_to_int64 uint -> int
string string_to_string string -> string
string bool_to_string bool -> string
string bytes_to_string bytes -> string
string double_to_string double -> string
string duration_to_string duration -> string
string int64_to_string int -> string
string timestamp_to_string timestamp -> string
string uint64_to_string uint -> string
string ip_to_string IP -> string
string cidr_to_string CIDR -> string
timestamp timestamp_to_timestamp timestamp -> timestamp
timestamp int64_to_timestamp int -> timestamp
timestamp string_to_timestamp string -> timestamp
uint uint64_to_uint64 uint -> uint
uint double_to_uint64 double -> uint
uint int64_to_uint64 int -> uint
uint string_to_uint64 string -> uint
.contains contains_string string string -> bool
.endsWith ends_with_string string string -> bool
.startsWith starts_with_string string string -> bool
matches matches string string -> bool
.matches matches_string string string -> bool
.getFullYear timestamp_to_year timestamp -> int
.getFullYear timestamp_to_year_with_tz timestamp string -> int
.getMonth timestamp_to_month timestamp -> int
.getMonth timestamp_to_month_with_tz timestamp string -> int
.getDayOfYear timestamp_to_day_of_year timestamp -> int
.getDayOfYear timestamp_to_day_of_year_with_tz timestamp string -> int
.getDayOfMonth timestamp_to_day_of_month timestamp -> int
.getDayOfMonth timestamp_to_day_of_month_with_tz timestamp string -> int
.getDate timestamp_to_day_of_month_1_based timestamp -> int
.getDate timestamp_to_day_of_month_1_based_with_tz timestamp string -> int
.getDayOfWeek timestamp_to_day_of_week timestamp -> int
.getDayOfWeek timestamp_to_day_of_week_with_tz timestamp string -> int
.getHours timestamp_to_hours timestamp -> int
.getHours timestamp_to_hours_with_tz timestamp string -> int
.getHours duration_to_hours duration -> int
.getMinutes timestamp_to_minutes timestamp -> int
.getMinutes timestamp_to_minutes_with_tz timestamp string -> int
.getMinutes duration_to_minutes duration -> int
.getSeconds timestamp_to_seconds timestamp -> int
.getSeconds timestamp_to_seconds_tz timestamp string -> int
.getSeconds duration_to_seconds duration -> int
.getMilliseconds timestamp_to_milliseconds timestamp -> int
.getMilliseconds timestamp_to_milliseconds_with_tz timestamp string -> int
.getMilliseconds duration_to_milliseconds duration -> int
optional.of optional_of A -> optional(A)
optional.ofNonZeroValue optional_ofNonZeroValue A -> optional(A)
optional.none optional_none -> optional(A)
.hasValue optional_hasValue optional(A) -> bool
.value optional_value optional(A) -> A
.or optional_or_optional optional(A) optional(A) -> optional(A)
.orValue optional_orValue_value optional(A) A -> A
optional.unwrap optional_unwrap list(optional(A)) -> list(A)
.unwrapOpt optional_unwrapOpt list(optional(A)) -> list(A)
.charAt string_char_at_int string int -> string
.indexOf string_index_of_string string string -> int
.indexOf string_index_of_string_int string string int -> int
.indexOf list_a_index_of_int list(A) A -> int
.lastIndexOf string_last_index_of_string string string -> int
.lastIndexOf string_last_index_of_string_int string string int -> int
.lastIndexOf list_a_last_index_of_int list(A) A -> int
.lowerAscii string_lower_ascii string -> string
.upperAscii string_upper_ascii string -> string
.replace string_replace_string_string string string string -> string
.replace string_replace_string_string_int string string string int -> string
.split string_split_string string string -> list(string)
.split string_split_string_int string string int -> list(string)
.substring string_substring_int string int -> string
.substring string_substring_int_int string int int -> string
.trim string_trim string -> string
.join list_join list(string) -> string
.join list_join_string list(string) string -> string
.format string_format string list(dyn) -> string
strings.quote strings_quote string -> string
sets.contains list_sets_contains_list list(A) list(A) -> bool
sets.equivalent list_sets_equivalent_list list(A) list(A) -> bool
sets.intersects list_sets_intersects_list list(A) list(A) -> bool
cel.@mapInsert @mapInsert_map_key_value map(A,B) A B -> map(A,B)
cel.@mapInsert @mapInsert_map_map map(A,B) map(A,B) -> map(A,B)
.isSorted list_int_is_sorted_bool list(int) -> bool
.isSorted list_uint_is_sorted_bool list(uint) -> bool
.isSorted list_double_is_sorted_bool list(double) -> bool
.isSorted list_bool_is_sorted_bool list(bool) -> bool
.isSorted list_string_is_sorted_bool list(string) -> bool
.isSorted list_bytes_is_sorted_bool list(bytes) -> bool
.isSorted list_duration_is_sorted_bool list(duration) -> bool
.isSorted list_timestamp_is_sorted_bool list(timestamp) -> bool
.sum list_int_sum_int list(int) -> int
.sum list_uint_sum_uint list(uint) -> uint
.sum list_double_sum_double list(double) -> double
.sum list_duration_sum_duration list(duration) -> duration
.max list_int_max_int list(int) -> int
.max list_uint_max_uint list(uint) -> uint
.max list_double_max_double list(double) -> double
.max list_bool_max_bool list(bool) -> bool
.max list_string_max_string list(string) -> string
.max list_bytes_max_bytes list(bytes) -> bytes
.max list_duration_max_duration list(duration) -> duration
.max list_timestamp_max_timestamp list(timestamp) -> timestamp
.min list_int_min_int list(int) -> int
.min list_uint_min_uint list(uint) -> uint
.min list_double_min_double list(double) -> double
.min list_bool_min_bool list(bool) -> bool
.min list_string_min_string list(string) -> string
.min list_bytes_min_bytes list(bytes) -> bytes
.min list_duration_min_duration list(duration) -> duration
.min list_timestamp_min_timestamp list(timestamp) -> timestamp
.find string_find_string string string -> string
.findAll string_find_all_string string string -> list(string)
.findAll string_find_all_string_int string string int -> list(string)
url string_to_url string -> URL
isURL is_url_string string -> bool
.getScheme url_get_scheme URL -> string
.getHost url_get_host URL -> string
.getHostname url_get_hostname URL -> string
.getPort url_get_port URL -> string
.getEscapedPath url_get_escaped_path URL -> string
.getQuery url_get_query URL -> map(string,list(string))
ip string_to_ip string -> IP
.ip cidr_ip CIDR -> IP
isIP is_ip string -> bool
ip.isCanonical ip_is_canonical string -> bool
.family ip_family IP -> int
.isUnspecified ip_is_unspecified IP -> bool
.isLoopback ip_is_loopback IP -> bool
.isLinkLocalMulticast ip_is_link_local_multicast IP -> bool
.isLinkLocalUnicast ip_is_link_local_unicast IP -> bool
.isGlobalUnicast ip_is_global_unicast IP -> bool
cidr string_to_cidr string -> CIDR
isCIDR is_cidr string -> bool
.containsIP cidr_contains_ip_string CIDR string -> bool
.containsIP cidr_contains_ip_ip CIDR IP -> bool
.containsCIDR cidr_contains_cidr_string CIDR string -> bool
.containsCIDR cidr_contains_cidr CIDR CIDR -> bool
.prefixLength cidr_prefix_length CIDR -> int
.masked cidr_masked CIDR -> CIDR
quantity string_to_quantity string -> Quantity
isQuantity is_quantity_string string -> bool
.sign quantity_sign Quantity -> int
.isGreaterThan quantity_is_greater_than Quantity Quantity -> bool
.isGreaterThan semver_is_greater_than Semver Semver -> bool
.isLessThan quantity_is_less_than Quantity Quantity -> bool
.isLessThan semver_is_less_than Semver Semver -> bool
.compareTo quantity_compare_to Quantity Quantity -> int
.compareTo semver_compare_to Semver Semver -> int
.asApproximateFloat quantity_get_float Quantity -> double
.asInteger quantity_get_int Quantity -> int
.isInteger quantity_is_integer Quantity -> bool
.add quantity_add Quantity Quantity -> Quantity
.add quantity_add_int Quantity int -> Quantity
.sub quantity_sub Quantity Quantity -> Quantity
.sub quantity_sub_int Quantity int -> Quantity
semver string_to_semver string -> Semver
semver string_bool_to_semver string bool -> Semver
isSemver is_semver_string string -> bool
isSemver is_semver_string_bool string bool -> bool
.major semver_major Semver -> int
.minor semver_minor Semver -> int
.patch semver_patch Semver -> int
format.named format-named string -> optional(Format)
format.dns1123Label format-dns1123label -> Format
format.dns1123Subdomain format-dns1123subdomain -> Format
format.dns1035Label format-dns1035label -> Format
format.qualifiedName format-qualifiedname -> Format
format.dns1123LabelPrefix format-dns1123labelprefix -> Format
format.dns1123SubdomainPrefix format-dns1123subdomainprefix -> Format
format.dns1035LabelPrefix format-dns1035labelprefix -> Format
format.labelValue format-labelvalue -> Format
format.uri format-uri -> Format
format.uuid format-uuid -> Format
format.byte format-byte -> Format
format.date format-date -> Format
format.datetime format-datetime -> Format
.validate format-validate Format string -> optional(list(string))
jsonpatch.escapeKey string_jsonpatch_escapeKey_string string -> string
.path authorizer_path Authorizer string -> PathCheck
.group authorizer_group Authorizer string -> GroupCheck
.serviceAccount authorizer_serviceaccount Authorizer string string -> Authorizer
.resource groupcheck_resource GroupCheck string -> ResourceCheck
.subresource resourcecheck_subresource ResourceCheck string -> ResourceCheck
.namespace resourcecheck_namespace ResourceCheck string -> ResourceCheck
.name resourcecheck_name ResourceCheck string -> ResourceCheck
.fieldSelector authorizer_fieldselector ResourceCheck string -> ResourceCheck
.labelSelector authorizer_labelselector ResourceCheck string -> ResourceCheck
.check pathcheck_check PathCheck string -> Decision
.check resourcecheck_check ResourceCheck string -> Decision
.errored decision_errored Decision -> bool
.error decision_error Decision -> string
.allowed decision_allowed Decision -> bool
.reason decision_reason Decision -> string
.distinct list_distinct list(A) -> list(A)
.flatten list_flatten list(list(A)) -> list(A)
.flatten list_flatten_int list(dyn) int -> list(dyn)
.first list_first list(A) -> optional(A)
.last list_last list(A) -> optional(A)
.@sortByAssociatedKeys list_sortByAssociatedKeys list(A) list(B) -> list(A)
.slice list_slice list(A) int int -> list(A)
.reverse list_reverse list(A) -> list(A)
.sort list_sort list(A) -> list(A)
lists.range lists_range int -> list(int)
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        for line in TABLE.lines().map(str::trim).filter(|line| !line.is_empty()) {
            assert!(parse(line).is_some(), "{line}");
        }
        assert_eq!(overloads("_[_]").unwrap()[1].result, Type::Var(1));
    }
}
