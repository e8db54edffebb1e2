//! In which version a kind is served, if at all.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};

use super::resource::Resource;
use super::trouble::Trouble;

/// A version of a kind.
fn in_version(resource: Resource, version: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk(resource.group(), version, resource.kind().as_str());
    ApiResource::from_gvk_with_plural(&kind, resource.plural())
}

/// The best version that is both served and understood; `None` when the kind is
/// not defined in this cluster. Built-in kinds are taken for granted.
pub async fn served(client: &Client, resource: Resource) -> Result<Option<ApiResource>, Trouble> {
    if !resource.is_optional() {
        return Ok(resource.versions().first().map(|version| in_version(resource, version)));
    }
    let Some(group) = group(client, resource.group()).await? else { return Ok(None) };
    for version in resource.versions() {
        if !group.versions.iter().any(|served| served.version == *version) {
            continue;
        }
        let group_version = format!("{}/{version}", resource.group());
        match client.list_api_group_resources(&group_version).await {
            Ok(list) if list.resources.iter().any(|known| known.name == resource.plural()) => {
                return Ok(Some(in_version(resource, version)));
            }
            Ok(_) => {}
            Err(error) => match Trouble::of(&error) {
                // It went between the two requests.
                Trouble::NotServed => {}
                trouble => return Err(trouble),
            },
        }
    }
    Ok(None)
}

async fn group(client: &Client, name: &str) -> Result<Option<APIGroup>, Trouble> {
    let request = http::Request::get(format!("/apis/{name}")).body(Vec::new());
    let request = request.map_err(|error| Trouble::Unreachable(error.to_string()))?;
    match client.request(request).await {
        Ok(group) => Ok(Some(group)),
        Err(error) => match Trouble::of(&error) {
            Trouble::NotServed => Ok(None),
            trouble => Err(trouble),
        },
    }
}
