//! Several apps in one policy, built by docker.

use crate::fixture::Repo;

#[test]
fn docker_builds_the_apps_that_are_affected_and_their_base_once() {
    let Some(repo) = Repo::new("several") else { return };
    repo.edit("images.toml", "[app]\n# app settings\n", "[[app]]\nname = \"web\"\n\n[[app]]\nname = \"worker\"\n");
    repo.edit("images.toml", "name = \"worker\"\n", "name = \"worker\"\ndockerfile = \"worker/Dockerfile\"\n");
    let worker = repo.read("dockerfiles/Dockerfile.fast").replace("templates /app/templates", "worker/main.py /app/");
    repo.write("worker/Dockerfile", &worker.replace("/app/templates/page.html", "/app/main.py"));
    repo.write("worker/main.py", "print(1)\n").commit("several");
    let actions = || {
        let report = repo.push();
        let images = report.0["images"].as_array().unwrap().clone();
        let of = |image: &serde_json::Value| {
            let name = image["name"].as_str().unwrap_or("base").to_owned();
            (name, image["action"].as_str().unwrap().to_owned())
        };
        images.iter().map(of).collect::<Vec<_>>()
    };
    let expected = |base: &str, web: &str, worker: &str| {
        [("base", base), ("web", web), ("worker", worker)].map(|(name, action)| (name.to_owned(), action.to_owned()))
    };
    assert_eq!(actions(), expected("built", "built", "built"));
    repo.write("worker/main.py", "print(2)\n").commit("worker");
    assert_eq!(actions(), expected("reused", "reused", "built"));
    let lines = repo.xtask(&["build"]).run().ok().stdout;
    let references: Vec<&str> = lines.lines().collect();
    assert_eq!(references.len(), 2, "{lines}");
    assert_eq!(repo.run(references[1], &[]), "print(2)");
}
