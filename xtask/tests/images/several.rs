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

#[test]
fn each_app_with_such_a_dockerfile_is_built_from_scratch() {
    let Some(repo) = Repo::new("severalfull") else { return };
    let app = |name: &str, enhanced: &str| format!("[[app]]\nname = \"{name}\"\n{enhanced}\n");
    let enhanced = |name: &str| format!("enhanced = \"{name}/Dockerfile\"\n");
    let apps = app("web", &enhanced("web")) + &app("worker", &enhanced("worker")) + &app("plain", "");
    repo.edit("images.toml", "[app]\n# app settings\n", &apps);
    for name in ["web", "worker"] {
        let dockerfile = format!(
            "ARG ROOT_IMAGE\nFROM ${{ROOT_IMAGE}}\nCOPY {name}/page.html /app/page.html\nENTRYPOINT [\"cat\", \"/app/page.html\"]\n"
        );
        repo.write(&format!("{name}/Dockerfile"), &dockerfile).write(&format!("{name}/page.html"), name);
    }
    repo.commit("several");
    let call = || repo.xtask(&["build-enhanced", "--push", "--format", "json"]).run().ok();
    let first = call();
    let (said, report) = (first.stderr.clone(), first.report());
    let images = report.0["images"].as_array().unwrap();
    let names: Vec<&str> = images.iter().map(|image| image["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web", "worker"]);
    assert!(said.contains("app plain: it has no `enhanced`"), "{said}");
    for image in images {
        assert_eq!(image["action"], "built");
        assert_eq!(repo.run(image["reference"].as_str().unwrap(), &[]), image["name"].as_str().unwrap());
    }
    repo.write("web/page.html", "other").commit("web");
    let actions: Vec<String> =
        call().report().0["images"].as_array().unwrap().iter().map(|image| image["action"].to_string()).collect();
    assert_eq!(actions, ["\"built\"", "\"reused\""]);
    repo.xtask(&["build-enhanced", "--app", "plain"])
        .run()
        .ends(2)
        .says("`images.toml` has no Dockerfile that builds from scratch");
}
