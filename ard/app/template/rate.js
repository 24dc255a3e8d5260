import { about, of } from "/app.js";

const run = await about();
for (const id of ["folder", "again"]) of(id).textContent = run.folder;
of("reason").textContent = run.no_study || "";
