import { controlPlaneMissing } from "../cluster/control-plane.ts";
import { helmMissing } from "./helm.ts";
import { notRoot, PLANE, testInstallation } from "./install.ts";

testInstallation("helm", notRoot ?? helmMissing() ?? controlPlaneMissing(PLANE) ?? false);
