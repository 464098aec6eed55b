import * as fs from "node:fs"
const path = require("path")

const text: string = fs.readFileSync("in.txt", "utf8")
fs.writeFileSync(path.join(".", "out.txt"), text)
