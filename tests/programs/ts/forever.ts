console.log("started")
setInterval((): void => {}, 1000)
