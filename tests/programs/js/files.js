const fs = require("fs")

fs.writeFileSync("out.txt", fs.readFileSync("in.txt"))
