unit(sys USES sys)
